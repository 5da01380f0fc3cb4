"""The commands by name: where each one's function is, and its line in the help. Nothing of them is imported here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One line of the help, and the function behind it."""

    target: str
    """`module:function`, imported when the command is called."""
    summary: str


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "arriero.cli.quickstart:quickstart", "Cited answers now, then the whole road to a model of your own"
    ),
    "generate": Command("arriero.cli.generate:generate", "Answer or continue one prompt"),
    "chat": Command("arriero.cli.chat:chat", "Talk with a model in the terminal"),
    "serve": Command("arriero.cli.serve:serve", "Serve an OpenAI-compatible API and the web pages"),
    "rag add": Command("arriero.cli.rag:add", "Take files and folders into a collection"),
    "rag update": Command("arriero.cli.rag:update", "Take in what changed in a collection's files"),
    "rag remove": Command("arriero.cli.rag:remove", "Take documents out of a collection"),
    "rag list": Command("arriero.cli.rag:list_documents", "List a collection's documents"),
    "rag search": Command("arriero.cli.rag:search", "Find passages"),
    "rag ask": Command("arriero.cli.rag_ask:ask", "Answer a question from a collection, with citations"),
    "rag chat": Command("arriero.cli.rag_ask:chat", "Talk about a collection, with citations"),
    "rag watch": Command("arriero.cli.rag:watch", "Keep a collection equal to its folders as files change"),
    "rag retriever": Command("arriero.cli.rag_retriever:retriever", "Train what finds passages, on questions"),
    "rag reencode": Command(
        "arriero.cli.rag_retriever:reencode", "Encode a collection's passages with another encoder"
    ),
    "rag index": Command("arriero.cli.rag_index:index", "Tell where a collection's vectors are searched, or move them"),
    "rag train": Command("arriero.cli.rag_train:train", "Train query encoder and generator together, on questions"),
    "rag evaluate": Command("arriero.cli.rag_evaluate:evaluate", "Measure RAG on questions, beside its baselines"),
    "rag questions": Command("arriero.cli.rag_questions:questions", "Have a model write questions from passages"),
    "corpus run": Command("arriero.cli.corpus:run", "Turn raw dumps into clean, deduplicated documents"),
    "corpus train-lm": Command("arriero.cli.corpus_models:train_lm", "Train the language model that judges web pages"),
    "corpus train-classifier": Command(
        "arriero.cli.corpus_models:train_classifier", "Train the classifier that tells references from random pages"
    ),
    "corpus stats": Command("arriero.cli.corpus:stats", "Show what became of a corpus's documents, as table and page"),
    "tokenizer train": Command("arriero.cli.tokenizer:train", "Train a tokenizer of LLaMA's kind on your text"),
    "tokenizer measure": Command("arriero.cli.tokenizer:measure", "Measure how well a tokenizer fits your text"),
    "tokenize": Command("arriero.cli.tokenize:tokenize", "Turn documents into token shards for training"),
    "pretrain": Command("arriero.cli.pretrain:pretrain", "Train a base model on token shards"),
    "sft": Command("arriero.cli.sft:sft", "Fine-tune a model on examples of what it should answer"),
    "eval": Command("arriero.cli.eval:evaluate", "Measure perplexity by source, and run lm-eval's tasks"),
    "plan": Command("arriero.cli.plan:plan", "Estimate memory, time, energy and CO₂ of a training run"),
    "report": Command("arriero.cli.report:report", "Write the curves, samples and costs of a run as one page"),
    "model get": Command("arriero.cli.model:get", "Bring a model here"),
    "model show": Command("arriero.cli.model:show", "Tell what a model is"),
    "model export": Command("arriero.cli.model_export:export", "Write a model for other tools, read back and compared"),
    "adapter merge": Command("arriero.cli.adapter:merge", "Merge adapters into their base, or into one adapter"),
    "adapter export": Command("arriero.cli.adapter:export", "Write an adapter for llama.cpp (GGUF) or PEFT"),
    "adapter list": Command("arriero.cli.adapter:list_adapters", "List the adapters in a folder"),
    "adapter compare": Command("arriero.cli.adapter_compare:compare", "Let adapters or models answer, side by side"),
    "align import": Command("arriero.cli.align:import_files", "Take in preferences that others collected"),
    "align export": Command("arriero.cli.align:export_files", "Write preferences for other tools"),
    "align stats": Command("arriero.cli.align:stats", "Count preferences, and measure how far annotators agree"),
    "align sample": Command(
        "arriero.cli.align_sample:sample", "Let two model variants answer prompts: pairs to compare"
    ),
    "align annotate": Command("arriero.cli.align:annotate", "Judge pairs of responses in the terminal"),
    "align judge": Command("arriero.cli.align_sample:judge", "Have a reward model or a program judge pairs"),
    "align reward": Command("arriero.cli.align_reward:reward", "Train a model that scores responses, on preferences"),
    "align reward-eval": Command("arriero.cli.align_reward:reward_eval", "Measure a reward model on comparisons"),
    "align reject": Command("arriero.cli.align_reject:reject", "Learn from the best of many answers to each prompt"),
    "align ppo": Command("arriero.cli.align_ppo:ppo", "Let a model learn from the scores that its answers get (PPO)"),
    "align ghost": Command(
        "arriero.cli.align_ghost:ghost", "Make examples of keeping to an instruction over many turns"
    ),
    "align ghost-eval": Command(
        "arriero.cli.align_ghost:ghost_eval", "Measure over how many turns an instruction holds"
    ),
    "align distil": Command(
        "arriero.cli.align_distil:distil", "Make examples of safer answers, learnt without a preprompt"
    ),
    "align iterate": Command(
        "arriero.cli.align_iterate:iterate", "Align a model in rounds: preferences, rewards, versions"
    ),
    "doctor": Command("arriero.cli.doctor:doctor", "Tell what this machine can run, why not more, and what to install"),
    "completion": Command("arriero.cli.completion:completion", "Print the completion of bash, zsh or fish"),
    "kernels check": Command("arriero.cli.kernels:check", "Hold every attention implementation against the reference"),
    "kernels bench": Command("arriero.cli.kernels_bench:bench", "Measure attention: time and memory, beside PyTorch's"),
    "kernels io": Command(
        "arriero.cli.kernels_io:count_io", "Count what attention reads and writes, as the paper does"
    ),
}

GROUPS = {
    "rag": "Questions about your own documents, answered with citations",
    "corpus": "LLaMA's data pipeline: seven kinds of source, and folders of your own",
    "tokenizer": "Train tokenizers, and measure how well they fit",
    "model": "Bring, inspect and export models",
    "align": "Preferences, reward models, rejection sampling, PPO: what Llama 2 did",
    "adapter": "Merge, export, list and compare LoRA adapters",
    "kernels": "Check and measure the attention kernels",
}
