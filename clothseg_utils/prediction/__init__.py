"""Photos to files: how a photo is fed to a network, what is written of it, and where."""
