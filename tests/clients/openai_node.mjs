// openai-node against the gateway: reads cases from standard input, writes what it got.
import OpenAI from "openai";

const { baseURL, cases } = JSON.parse(await new Promise((resolve) => {
  let text = "";
  process.stdin.on("data", (part) => (text += part));
  process.stdin.on("end", () => resolve(text));
}));
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 2 });
const messages = [{ role: "user", content: "hi" }];

async function ask({ model, stream }) {
  let said = "";
  try {
    const answer = await client.chat.completions.create({ model, messages, stream });
    if (!stream) return { ended: "ok", said: answer.choices[0].message.content };
    for await (const chunk of answer) said += chunk.choices[0]?.delta?.content ?? "";
    return { ended: "ok", said };
  } catch (error) {
    return { ended: said ? "event" : String(error.status ?? "event"), said };
  }
}

const found = [];
for (const one of cases) found.push(await ask(one));
console.log(JSON.stringify(found));
