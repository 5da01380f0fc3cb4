"""Floor 0: errors, files, devices and progress, for every floor above."""
