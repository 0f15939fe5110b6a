"""Any set of models side by side on this machine: `mobilenetv2 benchmark`."""
