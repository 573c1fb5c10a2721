"""What neighbours may know: peering, trust federation, export and import. Its rooms are built with federation."""
