"""What each command does: read its flags, call the rooms that do the work, print what they return."""
