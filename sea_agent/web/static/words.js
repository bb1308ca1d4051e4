// A text in pieces: words, and what stands between them. Joined, they are the text.

// For browsers without Intl.Segmenter: letters with their marks are a word, but each sign of a script that sets no spaces
// is one; an emoji stays whole.
const PIECES =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]\p{M}*|[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}_]|['’.](?=[\p{L}\p{N}]))*|\s+|\p{Regional_Indicator}{2}|[^](?:[\p{M}\p{Emoji_Modifier}]|\u200d[^])*/gu;

const segmenter = Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "word" });

/** The pieces of a text, in its order. */
export function piecesOf(text) {
  if (segmenter) return Array.from(segmenter.segment(text), ({ segment }) => segment);
  return text.match(PIECES) ?? [];
}
