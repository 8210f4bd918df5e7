"""A small network for the images in a folder, in one command: `optinas-auto my_images`."""
