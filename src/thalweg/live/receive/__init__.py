"""The process that receives: sockets and feeds -> the spool."""
