"""The installer of a bare host. `holdfast dist build` makes one file of these modules: install.py.

model       what an installation consists of: options, facts, things (pure)
offer       the manifest, and what of it is for this host (pure)
preflight   everything that is in the way, at once (pure)
steps       options and facts -> the things to make, in order; and which of them to take away (pure)
source      the folder, or the control plane behind the root that the token pins
record      /var/lib/holdfast-install/made.json: each thing is written there before it is made
facts       what there is on this host
system      makes, checks and takes away one thing
life        joining, units, waiting until it serves, draining
main        the command line, and the order of it all

Standard library only, and nothing of the rest of the project: it runs before that is there, and after it is gone. No
syntax of Python 3.12, and none that keeps 3.9 from reading it: an old Python shall be told so.
"""
