// The page `GET /` in Chromium: user 1 types, user 2's pane shows it; both see the other online.
//
// Usage: node page.mjs URL [SCREENSHOT.png]   (`playwright-core` is found from the folder in CONFAB_FOREIGN_NODE)
import { createRequire } from 'node:module';

const require = createRequire(process.env.CONFAB_FOREIGN_NODE + '/package.json');
const { chromium } = require('playwright-core');

const [url, screenshot] = process.argv.slice(2);
const BOUND = { timeout: 20_000 };
const browser = await chromium.launch({
  executablePath: process.env.CONFAB_CHROMIUM,
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
const problems = [];
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.on('pageerror', (error) => problems.push('page error: ' + error));
  page.on('console', (line) => line.type() === 'error' && problems.push('console: ' + line.text()));
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) problems.push('a request elsewhere: ' + request.url());
  });
  await page.goto(url, BOUND);
  const pane = (user) => page.locator(`[data-pane="${user}"]`);
  const say = async (user, text) => {
    const input = pane(user).locator('form input[name="content"]');
    await input.fill(text);
    await input.press('Enter');
  };
  const shows = (user, text) =>
    pane(user).locator('[data-role="messages"]').getByText(text, { exact: false }).first().waitFor(BOUND);
  const online = (user) =>
    pane(user).locator('[data-role="peer-status"]').filter({ hasText: /online/i }).waitFor(BOUND);

  await online(1);
  await online(2);
  const talk = [[1, 'Hi! Is this thing on?'], [2, 'It is. Pull the plug, if you like.'], [1, 'I did: kill -9, and it is all still here. <b>&amp;</b> 👍']];
  for (const [user, text] of talk) {
    await say(user, text);
    await shows(1, text);
    await shows(2, text);
  }
  for (const user of [1, 2]) {
    const count = await pane(user).locator('[data-role="messages"]').getByText(talk[0][1], { exact: false }).count();
    if (count !== 1) problems.push(`pane ${user} shows the first message ${count} times`);
  }
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  if (screenshot) await page.screenshot({ path: screenshot });

  await page.reload(BOUND);
  for (const user of [1, 2]) await shows(user, talk[2][1]);
} finally {
  await browser.close();
}
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
console.log('the page works');
