"""Reading the frames and the caption of a clip, and writing a clip. Imports `files`."""
