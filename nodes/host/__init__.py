"""What the nodes need of ComfyUI: its pictures, poses, folders, sockets, and networks in its patchers."""
