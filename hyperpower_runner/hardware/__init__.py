"""Power, memory and other metrics of a network on a device: models that predict them."""
