"""Programs for devices that are not here: do they compile, do they fit, how long would they take?"""
