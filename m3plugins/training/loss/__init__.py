"""M3's joint loss, and its gradient over the whole batch."""
