"""The process that scores: the spool -> windows -> scores -> sinks."""
