"""What the embedded world shows and says: actions, sprites, clips, captions. Imports nothing above it."""
