"""The balls that weight decay keeps the weights in: how full they are, and how optimal."""
