"""Pictures of what was found, for people: on the picture itself, over a sound or a series, as a sheet, in a terminal.

Pure: arrays in, arrays out. `canvas` is the door to OpenCV's drawing.
"""
