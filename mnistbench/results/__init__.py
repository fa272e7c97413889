"""What happened: records, the folder that holds them, and several folders made into one."""
