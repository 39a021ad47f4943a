"""The virtual-time driver: event queue, fluid network, world and trace."""
