"""What requests may say: the fields of each protocol that are read, with their ranges. Others are passed over."""
