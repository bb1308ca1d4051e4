// Which words of two texts differ: a longest common subsequence of their words.

import { piecesOf } from "./words.js";

const LARGEST = 4_000_000; // products of word counts above this would keep the page busy for too long
const LEAST_SHARED = 0.2;

/**
 * Both texts in pieces {text, marked}; joined, the pieces are the text.
 * Nothing is marked, and `note` says why, where marks would not help.
 */
export function compare(first, second) {
  const [a, b] = [wordsOf(first), wordsOf(second)];
  const whole = (text) => [{ text, marked: false }];
  const plain = (note) => ({ note, first: whole(first), second: whole(second) });
  if (first === second) return plain("Both responses are the same.");
  if (a.words.length * b.words.length > LARGEST) return plain("Too long to mark what differs.");
  const pairs = withoutIslands(shared(a.words, b.words), a.words.length, b.words.length);
  if (pairs.length < LEAST_SHARED * Math.max(a.words.length, b.words.length)) {
    return plain("The responses have little in common, so nothing is marked.");
  }
  return {
    note: "",
    first: pieces(a, new Set(pairs.map(([i]) => i))),
    second: pieces(b, new Set(pairs.map(([, j]) => j))),
  };
}

function wordsOf(text) {
  const segments = piecesOf(text);
  return { segments, words: segments.filter((segment) => segment.trim()) };
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

/** The text in pieces; spaces between two marked words are marked with them, line breaks never are. */
function pieces({ segments }, kept) {
  const marks = [];
  let word = 0;
  for (const segment of segments) marks.push(segment.trim() ? !kept.has(word++) : null);
  const result = [];
  segments.forEach((text, k) => {
    const marked = marks[k] ?? (Boolean(marks[k - 1] && marks[k + 1]) && !text.includes("\n"));
    if (result.at(-1)?.marked === marked) result.at(-1).text += text;
    else result.push({ text, marked });
  });
  return result;
}
