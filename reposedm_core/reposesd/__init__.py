"""RePoseSD (eq. 17): Stable Diffusion 2.1 with a pose latent, and folders of diffusers that hold one."""
