"""From folders and archives of pictures to training samples."""
