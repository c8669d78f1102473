"""What a worker (`hyperpower_runner.worker`) is made of: how one script is run, watched and understood.

    attempt          the right to run a job, which one worker has
    process_tree     the script and all that comes of it: started, and ended without a rest
    attending        the loop that waits for it
    script_output    what it prints, and the log of that
    learning_curve   what it reports while it trains
    job_watch        what others write into the job's folder; the heartbeat
    reported         what it says at its end: metrics, or why there are none

Standard library only, since a worker is started for every job.
"""
