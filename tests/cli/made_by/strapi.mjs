// Starts Strapi on an SQLite file in this directory, and makes an API token with its own service.
// Writes the table of the tokens to strapi.csv, and prints the token last.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const SALT = "the salt of a Strapi for tests";
const here = process.cwd();
const { createStrapi } = createRequire(join(here, "package.json"))("@strapi/strapi");

const settings = {
  admin: { apiToken: { salt: SALT }, auth: { secret: "s" }, transfer: { token: { salt: "t" } } },
  database: { connection: { client: "sqlite", connection: { filename: "strapi.db" } } },
  server: { app: { keys: ["k"] } },
};
rmSync("strapi.db", { force: true });
for (const folder of ["config", "src", "public/uploads"]) {
  mkdirSync(folder, { recursive: true });
}
for (const [name, value] of Object.entries(settings)) {
  writeFileSync(`config/${name}.js`, `module.exports = ${JSON.stringify(value)};\n`);
}

function cell(value) {
  return `"${String(value ?? "").replaceAll('"', '""')}"`;
}

const strapi = await createStrapi({ appDir: here, distDir: here }).load();
const made = await strapi.service("admin::api-token").create({
  name: "the shop",
  description: "",
  type: "full-access",
  lifespan: null,
});
const [row] = await strapi.db.connection("strapi_api_tokens").where({ id: made.id });
const lines = [Object.keys(row).join(","), Object.values(row).map(cell).join(",")];
writeFileSync("strapi.csv", `${lines.join("\n")}\n`);
console.log(made.accessKey);
process.exit();
