"""Services of the machine: compiled code on disk, devices, progress, files, tables for people."""
