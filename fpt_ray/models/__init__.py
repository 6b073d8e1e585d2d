"""Every network: the frozen ViT and all that learns beside or inside it."""
