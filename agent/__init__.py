"""One per host: watch -> World -> project -> compile -> Snapshot -> ADS -> Envoy.

machine     every decision about when to act (pure): events in, instructions out
runtime     executes instructions, feeds results back
watch       follow the mesh, publish the latest World       state     last good state on disk
losses      which deletions are obeyed, and which are held back until they are declared
identity    keys, join, renewal                             register  local definitions, health checks
uplink      the one door to the control plane               status    what is observed, applied, refused
planning    what a change that is not written would do      telling   facts and answers for whoever asks
xds         delta ADS and SDS on a unix socket              envoy     bootstrap, launcher, admin
peers       where the rest of the mesh is, whom we believe    outside   what is needed of the world outside
daemon      composition root: assembly is what it puts together
"""
