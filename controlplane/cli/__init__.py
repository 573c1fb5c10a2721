"""The `holdfast` command: what operators type.

main        the table of commands; imports nothing of them until one is called
errors      exit codes, and the one exception that ends a command
context     which control plane, which token: flags > environment > config file
client      HTTPS to any of several control-plane nodes
output      tables for people, JSON and YAML for programs; stdout is data, stderr is talk
views       what a kind's table shows (pure)
files       resource files from paths, directories and stdin
options     options that commands share
<command>   one file per command or family of them
"""
