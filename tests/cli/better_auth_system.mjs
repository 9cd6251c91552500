// Makes a key with Better Auth itself, and prints it and its table as CSV, in JSON.

import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";

const tables = { user: [], session: [], account: [], verification: [], apikey: [] };
const auth = betterAuth({
  database: memoryAdapter(tables),
  secret: process.env.BETTER_AUTH_SECRET,
  baseURL: "http://localhost",
  emailAndPassword: { enabled: true },
  plugins: [apiKey()],
  logger: { disabled: true },
  telemetry: { enabled: false },
});
const person = { email: "a@shop.example", password: "a long password", name: "A" };
const { user } = await auth.api.signUpEmail({ body: person });
const made = await auth.api.createApiKey({ body: { name: "the shop", userId: user.id } });

function cell(value) {
  const text = value instanceof Date ? value.toISOString() : String(value ?? "");
  return `"${text.replaceAll('"', '""')}"`;
}
const [row] = tables.apikey;
const dump = [Object.keys(row).join(","), Object.values(row).map(cell).join(",")].join("\n");
console.log(JSON.stringify({ key: made.key, owner: user.id, dump: `${dump}\n` }));
