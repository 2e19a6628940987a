"""M3's joint loss, and its gradient over a whole batch."""
