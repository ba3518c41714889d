"""What every other floor may use and that knows nothing of supernets: inputs, nested tensors, files, programs."""
