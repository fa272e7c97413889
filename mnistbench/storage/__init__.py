"""Files that are whole or not there, and a folder of ten thousand of them."""
