"""The contract between the driver and the training programs of the peers."""
