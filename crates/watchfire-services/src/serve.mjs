// PGlite with TimescaleDB on a port of the loopback address: node serve.mjs DATA PORT
import { PGlite } from "@electric-sql/pglite";
import { timescaledb } from "@electric-sql/pglite/timescaledb";
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";

const [data, port] = process.argv.slice(2);
const db = await PGlite.create({ dataDir: data, extensions: { timescaledb } });
await db.exec("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS timescaledb;");
const server = new PGLiteSocketServer({ db, host: "127.0.0.1", port: Number(port) });
await server.start();
process.on("SIGTERM", async () => {
  await server.stop();
  await db.close();
  process.exit(0);
});
