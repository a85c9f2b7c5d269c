"""What an agent can use: tools (:mod:`.tool`), how calls are written (:mod:`.syntax`), and ready-made tools."""
