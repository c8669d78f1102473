#!/usr/bin/env bash
# The Branin function as a shell script: the smallest wrapper in another language. Its minimum is 0.397887.
#
# In config.json: "objective": {"command": ["bash", "branin.sh"]}, "optimize": "branin", and two FLOAT variables, x from
# -5 to 10 and y from 0 to 15. The path of job.json is the last argument; it holds one key per line, such as "x": 2.5,
# The last line printed, one JSON object, holds the metrics.
set -euo pipefail

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    echo 'usage: branin.sh JOB_JSON    prints {"branin": VALUE} for the params x and y of a job.json'
    exit $(($# == 0 ? 2 : 0))
fi

awk -F '[:,]' '
    $1 ~ /^ *"x" *$/ { x = $2; found++ }
    $1 ~ /^ *"y" *$/ { y = $2; found++ }
    END {
        if (found != 2) {
            print "error: " FILENAME ": one x and one y were expected" > "/dev/stderr"
            exit 1
        }
        pi = atan2(0, -1)
        bend = y - 5.1 / (4 * pi ^ 2) * x ^ 2 + 5 / pi * x - 6
        printf "{\"branin\": %.10g}\n", bend ^ 2 + 10 * (1 - 1 / (8 * pi)) * cos(x) + 10
    }
' "${@: -1}"
