"""The only part of an agent's host that may touch /etc/hosts and the kernel's packet rules.

It runs as root, and needs the standard library only.

The agent, which reads from the network, runs without privileges. It says what it wants (`wanted`) over a unix socket;
this small process judges it again, and writes what lies in marked places of its own:

wanted    what may be asked for, strictly read, with all faults (pure)
block     names: a marked block in /etc/hosts (pure)
ruleset   virtual addresses and opt-in capture: one nftables table, `inet holdfast` (pure)
sink      where a call by name goes while no rule is there: nowhere (pure)
arming    may capture be in force? armed, confirmed, reverted (pure)
sessions  did a process come in over an SSH connection that is newer than the arming?
kernel    nft, ip
listeners who listens where callers are redirected to
system    files, users, cgroups
keeper    what is wanted, kept in force
daemon    the socket and the clock
cli       `holdfast-agent host` and `holdfast-agent capture`
client    what the agent and the commands on the host call

What can cut an operator off is kept up by a set element with a timeout, which only the living renew: when nothing
renews it, the kernel itself lets go (docs/capture.md).
"""
