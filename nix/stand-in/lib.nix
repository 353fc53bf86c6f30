# The functions of nixpkgs' lib that our Nix code calls.
let
  letters = text: builtins.filter builtins.isString (builtins.split " " text);
in
rec {
  genAttrs =
    names: value:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = value name;
      }) names
    );

  toLower = builtins.replaceStrings (letters "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z") (
    letters "a b c d e f g h i j k l m n o p q r s t u v w x y z"
  );

  optionalString = condition: text: if condition then text else "";

  escapeShellArg = word: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString word)}'";

  escapeShellArgs = words: builtins.concatStringsSep " " (map escapeShellArg words);

  licenses.bsd3.spdxId = "BSD-3-Clause";
}
