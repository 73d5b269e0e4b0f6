"""A live view in the browser: of a stored run, or of a training as it goes.

engine       a camera in, better and better pictures out, within a budget; knows no browser
reproject    the last picture seen from a new place
subject      what is looked at: a task and a model, its layers, the crop box
page         the browser's side: pictures, panel, cameras, path (viser)
command      nfields view run=...
"""
