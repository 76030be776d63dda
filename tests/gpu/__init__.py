"""What only an NVIDIA GPU can show: `make test-gpu`."""
