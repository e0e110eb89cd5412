"""What the pages of the coordinator and of a hospital share. Only `server/web/` and `client/web/` import it, never a courier."""
