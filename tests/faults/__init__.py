"""The fault matrix: real processes are killed, stopped, cut off and fed rubbish; no run is lost, no point doubled."""
