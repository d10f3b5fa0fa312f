"""Host code: what plans the launches of kernels, and what launches them. Nothing here runs on a device."""
