"""From the official files of a data set to the lists that the configs read: a module a data set.

    python -m data_pipelines.prepare                      names all of them
    python -m data_pipelines.prepare ucf101 --raw=DIR --out=data/ucf101 [--dry_run]

Every module has `FACTS` (what is official, and where a config looks) and `plan(args)` (what is there);
`shared.run` does the rest.
"""
