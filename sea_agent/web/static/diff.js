// Which words of two texts differ: a longest common subsequence of their words.

import { piecesOf } from "./words.js";

const LARGEST = 4_000_000; // products of word counts above this would keep the page busy for too long
const LEAST_SHARED = 0.2;

/**
 * Which words of two texts are in both: for each text, the positions of those that are.
 * `note` says why it is not told, where that would not help a reader.
 */
export function align(first, second) {
  const [head, tail] = sameEnds(first, second);
  const [a, b] = [first, second].map((words) => words.slice(head, words.length - tail));
  if (a.length * b.length > LARGEST) return { note: "Too long to mark what differs." };
  const same = (count, i, j) => Array.from({ length: count }, (_, k) => [i + k, j + k]);
  const middle = shared(a, b).map(([i, j]) => [i + head, j + head]);
  const end = same(tail, first.length - tail, second.length - tail);
  const pairs = withoutIslands([...same(head, 0, 0), ...middle, ...end], first.length, second.length);
  if (pairs.length < LEAST_SHARED * Math.max(first.length, second.length)) {
    return { note: "The responses have little in common, so nothing is marked." };
  }
  return { note: "", kept: [new Set(pairs.map(([i]) => i)), new Set(pairs.map(([, j]) => j))] };
}

/** A text in segments which, joined, are the text, and those of them that are words. */
export function wordsOf(text) {
  const segments = piecesOf(text);
  return { segments, words: segments.filter((segment) => segment.trim()) };
}

/** How many words both texts begin with, and end with: there is a longest common subsequence that has them all. */
function sameEnds(first, second) {
  const most = Math.min(first.length, second.length);
  let [head, tail] = [0, 0];
  while (head < most && first[head] === second[head]) head++;
  while (tail < most - head && first.at(-1 - tail) === second.at(-1 - tail)) tail++;
  return [head, tail];
}

/** Pairs of positions of equal words: a longest common subsequence. */
function shared(a, b) {
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width); // [i, j]: of what follows i in a and j in b
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}

/** Without shared words that stand alone between longer differences: a lone "the" helps nobody to compare. */
function withoutIslands(pairs, lengthOfA, lengthOfB) {
  const runs = [];
  for (const pair of pairs) {
    const last = runs.at(-1)?.at(-1);
    if (last && pair[0] === last[0] + 1 && pair[1] === last[1] + 1) runs.at(-1).push(pair);
    else runs.push([pair]);
  }
  const end = [lengthOfA, lengthOfB];
  return runs
    .filter((run, k) => {
      const before = gap(k ? runs[k - 1].at(-1) : [-1, -1], run[0]);
      const after = gap(run.at(-1), k + 1 < runs.length ? runs[k + 1][0] : end);
      return run.length >= Math.min(before, after);
    })
    .flat();
}

function gap(from, to) {
  return Math.max(to[0] - from[0], to[1] - from[1]) - 1;
}

/**
 * Segments of a text in pieces {text, marked}; their first word is number `from` of those of the text.
 * Spaces between two marked words are marked with them, line breaks never are.
 */
export function pieces(segments, kept, from = 0) {
  const marks = [];
  let word = from;
  for (const segment of segments) marks.push(segment.trim() ? !kept.has(word++) : null);
  const result = [];
  segments.forEach((text, k) => {
    const marked = marks[k] ?? (Boolean(marks[k - 1] && marks[k + 1]) && !text.includes("\n"));
    if (result.at(-1)?.marked === marked) result.at(-1).text += text;
    else result.push({ text, marked });
  });
  return result;
}
