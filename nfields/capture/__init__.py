"""From photographs or a video to a data set: pictures chosen, cameras found from them alone."""
