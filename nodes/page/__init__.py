"""What the page asks the server for: previews of the frames a node takes, the example clips."""
