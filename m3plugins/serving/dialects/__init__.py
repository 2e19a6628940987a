"""What other services' clients speak: one small file each."""
