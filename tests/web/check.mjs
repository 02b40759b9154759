// node check.mjs TASK.json: goes through every shipped workflow as a user would, in one renderer of the page.
// Writes what was found to the task's "report": {problems, prompts, kept, bypassed, saved, reopened, before, reloaded}.
import fs from 'fs';
import path from 'path';
import { Page, read } from './page.mjs';

const task = read(process.argv[2]); // url, renderer, chromium, workflows, run, embedded, kept, gallery, clip, saved, shots, report
const page = await Page.open(task);
const report = { problems: page.problems, prompts: {}, kept: {}, bypassed: {} };

const fewSteps = { KSampler: { seed: 1, control_after_generate: 'fixed', steps: 2 } };
const makeQuick = () => page.setWidgets({ ...fewSteps, EmptyLatentImage: { width: 64, height: 64 } });

const showsTheVideo = async (name) => {
  const videos = await page.videos();
  page.check(videos.some(([width, height, seconds]) => width === 64 && height === 64 && seconds === 2),
    `${name}: the video is not shown, only ${JSON.stringify(videos)}`);
};

const overlaps = (boxes) => boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
  a.left < b.left + b.width && b.left < a.left + a.width && a.top < b.top + b.height && b.top < a.top + a.height)
  .map((b) => `${a.title} lies over ${b.title}`));

try {
  for (const file of task.workflows) {
    const name = path.basename(file, '.json');
    const workflow = read(file);
    await page.drop(workflow, name);
    report.prompts[name] = await page.prompt();
    for (const found of [...overlaps(await page.boxes()), ...await page.crossings()]) page.check(false, `${name}: ${found}`);
    if (!task.run.includes(file)) {
      await page.shot(`${name}, opened`);
      continue;
    }
    if (task.embedded.includes(file)) { // as it opens; the others are made quicker, the host's tests run them whole
      if (!name.includes('01 start here')) await page.setWidgets(fewSteps);
      await page.run(name);
      const videos = await page.videos();
      page.check(videos.some(([, , seconds]) => seconds === 2), `${name}: no video of 2 s, only ${JSON.stringify(videos)}`);
      await page.shot(`${name}, ran`);
      continue;
    }
    const clips = workflow.nodes.filter((node) => node.type === 'EchoReelLoadReferenceVideo').length;
    for (let i = 0; i < clips; i++) await page.upload('EchoReelLoadReferenceVideo', task.clip, i);
    await makeQuick();
    await page.run(name);
    if (workflow.nodes.some((node) => node.type === 'SaveVideo' && node.mode === 0)) {
      await showsTheVideo(name);
    } else { // the second half: load what the first has saved
      await page.useSavedAction();
      await page.run(`${name}, loading`);
      await showsTheVideo(name);
    }
    await page.shot(`${name}, ran`);
    for (const overlap of overlaps(await page.boxes())) page.check(false, `${name}: ${overlap}`);
  }

  for (const file of task.kept) { // graphs of users, saved before
    await page.drop(read(file), path.basename(file));
    report.kept[path.basename(file, '.json')] = await page.prompt();
  }
  for (const [picture, file] of Object.entries(task.gallery)) { // a picture opens its workflow
    await page.dropOnCanvas(picture, read(file).nodes.length);
    page.check(JSON.stringify(await page.prompt()) === JSON.stringify(report.prompts[path.basename(file, '.json')]),
      `${picture} opens another workflow`);
  }

  const [first] = task.workflows.filter((file) => file.includes('text to video'));
  await page.drop(read(first), 'bypass');
  report.bypassed = await page.bypassed('EchoReelApply');

  await makeQuick();
  report.saved = await page.saveAs(`saved in ${task.renderer}`);
  await page.load();
  await page.drop(read(path.join(task.saved, `saved in ${task.renderer}.json`)), 'saved');
  report.reopened = await page.serialized();

  await page.openTemplate('comfyui-echoreel', path.basename(task.workflows[0], '.json'));
  await page.run('start here, from the list'); // the third click
  await page.look('start here, dark, 1280 x 720', 1280, 720, 'dark');
  await page.look('start here, light, 1600 x 1000', 1600, 1000, 'light');
  [report.before, report.reloaded] = await page.reloaded();
  await page.look('start here, loaded anew', 1900, 1100, 'dark');
  await page.openHelp('EchoReelLoadReferenceVideo', 'Load Reference Video');
} catch (error) {
  page.problems.push(`stopped: ${error.stack.slice(0, 800)}`);
  await page.page.screenshot({ path: path.join(task.shots, `stopped ${task.renderer}.png`) });
} finally {
  await page.close();
}
fs.writeFileSync(task.report, JSON.stringify(report));
