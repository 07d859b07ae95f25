"""What the machine does for the library: compiled code, devices, progress, files."""
