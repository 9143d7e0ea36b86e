"""Networks of other people's libraries, in their smallest configurations, with random weights.

Each function imports its library and lists what is tried of it: by name, how the network is made,
and how one batch of two samples is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Rows = dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]]


def image(size: int = 64, channels: int = 3) -> Tensor:
    """Two images."""
    return torch.rand(2, channels, size, size)


def large() -> Tensor:
    """Two images that detectors find worth looking at."""
    return image(128)


def volume(size: int = 32, channels: int = 1) -> Tensor:
    """Two volumes."""
    return torch.rand(2, channels, size, size, size)


def sound(samples: int = 8000) -> Tensor:
    """Half a second of audio, twice."""
    return torch.randn(2, samples)


def torchvision() -> Rows:
    from torchvision import models as m
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.feature_extraction import create_feature_extractor

    bare = {"weights": None, "weights_backbone": None}
    segmenter, detector = {**bare, "num_classes": 5}, {**bare, "num_classes": 4, "min_size": 128}

    def two_images() -> list[Tensor]:
        return [torch.rand(3, 128, 128), torch.rand(3, 96, 128)]

    return {
        "resnet18": (m.resnet18, image),
        "vgg11_bn": (partial(m.vgg11_bn, num_classes=10), image),
        "alexnet": (m.alexnet, image),
        "densenet121": (m.densenet121, image),
        "googlenet": (partial(m.googlenet, init_weights=False), image),
        "inception_v3": (partial(m.inception_v3, init_weights=False), partial(image, 96)),
        "mobilenet_v3_small": (m.mobilenet_v3_small, image),
        "regnet_y_400mf": (m.regnet_y_400mf, image),
        "shufflenet_v2_x0_5": (m.shufflenet_v2_x0_5, image),
        "convnext_tiny": (m.convnext_tiny, image),
        "swin_t": (m.swin_t, image),
        "vit_b_32": (partial(m.vit_b_32, image_size=64, num_classes=10), image),
        "fcn_resnet50": (partial(m.segmentation.fcn_resnet50, aux_loss=True, **segmenter), image),
        "deeplabv3_mobilenet": (
            partial(m.segmentation.deeplabv3_mobilenet_v3_large, **segmenter), image,
        ),
        "lraspp_mobilenet": (partial(m.segmentation.lraspp_mobilenet_v3_large, **segmenter), image),
        "fasterrcnn_mobilenet_320": (
            partial(m.detection.fasterrcnn_mobilenet_v3_large_320_fpn, **detector), two_images,
        ),
        "maskrcnn_resnet50": (partial(m.detection.maskrcnn_resnet50_fpn, **detector), two_images),
        "keypointrcnn_resnet50": (
            partial(m.detection.keypointrcnn_resnet50_fpn, **bare, min_size=128), two_images,
        ),
        "retinanet_resnet50": (partial(m.detection.retinanet_resnet50_fpn, **detector), two_images),
        "fcos_resnet50": (partial(m.detection.fcos_resnet50_fpn, **detector), two_images),
        "ssdlite320_mobilenet": (
            partial(m.detection.ssdlite320_mobilenet_v3_large, **bare, num_classes=4), two_images,
        ),
        "ssd300_vgg16": (partial(m.detection.ssd300_vgg16, **bare, num_classes=4), two_images),
        "r3d_18": (m.video.r3d_18, lambda: torch.rand(2, 3, 4, 32, 32)),
        "raft_small": (
            partial(m.optical_flow.raft_small, weights=None), lambda: (image(128), image(128)),
        ),
        "r2plus1d_18": (m.video.r2plus1d_18, lambda: torch.rand(2, 3, 4, 32, 32)),
        "swin_v2_t": (m.swin_v2_t, image),
        "squeezenet1_1": (m.squeezenet1_1, image),
        "quantizable_mobilenet": (
            partial(m.quantization.mobilenet_v2, weights=None, quantize=False), image,
        ),
        "feature extractor": (
            lambda: create_feature_extractor(m.resnet18(), {"layer2": "a", "layer4": "b"}), image,
        ),
        "IntermediateLayerGetter": (lambda: IntermediateLayerGetter(m.resnet18(), {"layer2": "a"}), image),
        "resnet_fpn_backbone": (
            lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None), image,
        ),
    }  # fmt: skip


def timm() -> Rows:
    import timm

    names = (
        "resnet10t", "resnetv2_50x1_bit", "nf_resnet26", "skresnet18", "ecaresnet26t", "dla34",
        "hrnet_w18_small", "vovnet39a", "selecsls42b", "repvgg_a0", "ese_vovnet19b_dw", "res2net50_14w_8s",
        "resnest14d", "mobileone_s0", "ghostnet_050", "efficientnet_lite0", "tf_mobilenetv3_small_075",
        "cspresnet50", "darknet17", "mixnet_s", "poolformer_s12", "fastvit_t8",
    )  # fmt: skip
    rows: Rows = {name: (partial(timm.create_model, name), image) for name in names}
    features = partial(timm.create_model, "resnet18", features_only=True)
    sized = {name: (partial(timm.create_model, name, img_size=64), image)
             for name in ("levit_128s", "coat_tiny")}  # fmt: skip
    return (
        rows
        | sized
        | {
            "resnet18 features": (features, image),
            "resnet10t checkpointed": (partial(_checkpointed, timm, "resnet10t"), image),
        }
    )


def _checkpointed(timm, name: str) -> nn.Module:
    model = timm.create_model(name)
    model.set_grad_checkpointing()
    return model


def segmentation_models_pytorch() -> Rows:
    import segmentation_models_pytorch as smp

    names = (
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "DeepLabV3Plus",
        "PAN",
        "UPerNet",
    )
    rows = {
        name: (
            partial(getattr(smp, name), "resnet18", encoder_weights=None, classes=3),
            partial(image, 128),
        )
        for name in names
    }
    head = {"pooling": "avg", "classes": 4}
    with_head = partial(smp.Unet, "resnet18", encoder_weights=None, classes=3, aux_params=head)
    return rows | {"Unet with a classifier": (with_head, image)}


def transformers() -> Rows:
    import transformers as t

    def named(key: str = "pixel_values", **more: object) -> Callable[[], dict]:
        return lambda: {key: image(), **more}

    stages = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "image_size": 64, "patch_size": 8}  # fmt: skip
    backbone = t.ResNetConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
    audio = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16,
             "num_conv_pos_embedding_groups": 4}  # fmt: skip

    def checkpointed() -> nn.Module:
        model = t.ResNetForImageClassification(t.ResNetConfig(**stages))
        if model.supports_gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return model.train()

    mask = t.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=5,
    )  # fmt: skip
    detr = t.DetrConfig(
        backbone_config=t.ResNetConfig(**stages, out_features=["stage4"]), use_timm_backbone=False, backbone=None, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    clip = t.CLIPVisionConfig(**vision)
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
    text = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 10, "eos_token_id": 2}  # fmt: skip
    speech = {"vocab_size": 50, "pad_token_id": 0, "decoder_start_token_id": 1, **small}
    four = {**vision, "num_hidden_layers": 4}
    deep = {
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    }
    necks = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}

    def on_resnet(kind: type, config: type, first: int = 4, **more: object) -> nn.Module:
        stages_out = [f"stage{i}" for i in range(first, 5)]
        trunk = t.ResNetConfig(**stages, out_features=stages_out)
        return kind(config(backbone_config=trunk, use_timm_backbone=False, backbone=None,
                           num_queries=5, **small, **more))  # fmt: skip

    def rt_detr() -> nn.Module:
        trunk = t.RTDetrResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1] * 4, layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        return t.RTDetrV2ForObjectDetection(
            t.RTDetrV2Config(backbone_config=trunk, **small, num_queries=5, num_denoising=0,
                             encoder_hidden_dim=32, encoder_in_channels=[32, 48, 64],
                             decoder_in_channels=[32] * 3)
        )  # fmt: skip

    def tokens() -> Tensor:
        return torch.randint(3, 50, (2, 6))

    def words_and_image() -> dict[str, Tensor]:
        return {
            "input_ids": tokens(),
            "pixel_values": image(),
            "attention_mask": torch.ones(2, 6).long(),
        }

    def spectrum() -> Tensor:
        return torch.randn(2, 20, 60)

    return {
        "ResNet": (lambda: t.ResNetForImageClassification(t.ResNetConfig(**stages)), named()),
        "ResNet checkpointed": (checkpointed, named()),
        "RegNet": (
            lambda: t.RegNetForImageClassification(t.RegNetConfig(**stages, groups_width=8)),
            named(),
        ),
        "ConvNext": (
            lambda: t.ConvNextForImageClassification(
                t.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1])
            ),
            named(),
        ),
        "MobileNetV2": (
            lambda: t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.5)),
            named(),
        ),
        "EfficientNet": (
            lambda: t.EfficientNetForImageClassification(
                t.EfficientNetConfig(width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640)
            ),
            named(),
        ),
        "BiT": (
            lambda: t.BitForImageClassification(
                t.BitConfig(embedding_size=32, hidden_sizes=[128] * 4, depths=[1] * 4)
            ),
            named(),
        ),
        "SegFormer": (
            lambda: t.SegformerForSemanticSegmentation(
                t.SegformerConfig(hidden_sizes=[16, 32, 48, 64], depths=[1] * 4, decoder_hidden_size=64,
                num_attention_heads=[1, 2, 2, 2])
            ),
            named(),
        ),
        "UperNet": (
            lambda: t.UperNetForSemanticSegmentation(
                t.UperNetConfig(backbone_config=backbone, hidden_size=32, auxiliary_in_channels=48, auxiliary_channels=16)
            ),
            named(),
        ),
        "DPT": (
            lambda: t.DPTForDepthEstimation(
                t.DPTConfig(**{**vision, "num_hidden_layers": 4}, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3],
                    neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32)
            ),
            named(),
        ),
        "Mask2Former": (lambda: t.Mask2FormerForUniversalSegmentation(mask), named()),
        "DETR": (lambda: t.DetrForObjectDetection(detr), named()),
        "Swin": (
            lambda: t.SwinForImageClassification(
                t.SwinConfig(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
            ),
            named(),
        ),
        "ViT": (lambda: t.ViTForImageClassification(t.ViTConfig(**vision)), named()),
        "CLIP vision": (lambda: t.CLIPVisionModel(clip), named()),
        "Wav2Vec2": (
            lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**audio)), lambda: {"input_values": sound()},
        ),
        "PoolFormer": (
            lambda: t.PoolFormerForImageClassification(
                t.PoolFormerConfig(hidden_sizes=[16, 32, 48, 64], depths=[1] * 4)
            ),
            named(),
        ),
        "GLPN": (
            lambda: t.GLPNForDepthEstimation(
                t.GLPNConfig(hidden_sizes=[16, 32, 48, 64], depths=[1] * 4, decoder_hidden_size=16, num_attention_heads=[1, 2, 2, 2])
            ),
            named(),
        ),
        "YOLOS": (
            lambda: t.YolosForObjectDetection(
                t.YolosConfig(**{**vision, "image_size": [64, 64]}, num_detection_tokens=5)
            ),
            named(),
        ),
        "RT-DETR": (rt_detr, named()),
        "Deformable DETR": (
            lambda: on_resnet(t.DeformableDetrForObjectDetection, t.DeformableDetrConfig, 2, num_feature_levels=3),
            named(),
        ),
        "Conditional DETR": (
            lambda: on_resnet(t.ConditionalDetrForObjectDetection, t.ConditionalDetrConfig), named(),
        ),
        "Whisper": (
            lambda: t.WhisperForConditionalGeneration(
                t.WhisperConfig(**speech, num_mel_bins=20, max_source_positions=30, max_target_positions=20)
            ),
            lambda: {"input_features": spectrum(), "decoder_input_ids": tokens()},
        ),
        "Speech2Text": (
            lambda: t.Speech2TextModel(
                t.Speech2TextConfig(**speech, conv_channels=32, input_feat_per_channel=20,
                                    max_source_positions=100, max_target_positions=20)
            ),
            lambda: {"input_features": spectrum().mT, "decoder_input_ids": tokens()},
        ),
        "BEiT segmenter": (
            lambda: t.BeitForSemanticSegmentation(
                t.BeitConfig(**four, out_indices=[1, 2, 3, 4], auxiliary_channels=16)
            ),
            named(),
        ),
        "Data2Vec audio": (
            lambda: t.Data2VecAudioModel(t.Data2VecAudioConfig(**audio, conv_pos_kernel_size=5)),
            lambda: {"input_values": sound()},
        ),
        "HuBERT": (
            lambda: t.HubertModel(t.HubertConfig(**audio, feat_extract_norm="layer")),
            lambda: {"input_values": sound()},
        ),
        "WavLM": (lambda: t.WavLMModel(t.WavLMConfig(**audio)), lambda: {"input_values": sound()}),
        "MobileViT": (
            lambda: t.MobileViTForImageClassification(
                t.MobileViTConfig(image_size=64, hidden_sizes=[16] * 3, num_attention_heads=2,
                                  neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32])
            ),
            named(),
        ),
        "MobileViTV2 segmenter": (
            lambda: t.MobileViTV2ForSemanticSegmentation(
                t.MobileViTV2Config(image_size=64, width_multiplier=0.25)
            ),
            named(),
        ),
        "Depth Anything": (
            lambda: t.DepthAnythingForDepthEstimation(
                t.DepthAnythingConfig(backbone_config=t.Dinov2Config(**four, **deep), patch_size=8,
                                      reassemble_hidden_size=32, head_hidden_size=16, **necks)
            ),
            named(),
        ),
        "LeViT": (
            lambda: t.LevitForImageClassification(
                t.LevitConfig(image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2] * 3,
                              depths=[1] * 3, key_dim=[8] * 3,
                              down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 4, 4, 2, 2]])
            ),
            named(),
        ),
        "PVT V2": (
            lambda: t.PvtV2ForImageClassification(
                t.PvtV2Config(image_size=64, hidden_sizes=[16, 32, 32, 32], depths=[1] * 4,
                              num_attention_heads=[1, 2, 2, 2])
            ),
            named(),
        ),
        "Hiera": (
            lambda: t.HieraForImageClassification(
                t.HieraConfig(embed_dim=16, image_size=[64, 64], depths=[1, 1], num_heads=[1, 2],
                              masked_unit_size=[4, 4], query_stride=[2, 2], num_query_pool=1)
            ),
            named(),
        ),
        "CLIPSeg": (
            lambda: t.CLIPSegForImageSegmentation(
                t.CLIPSegConfig(vision_config=vision, text_config=text, projection_dim=32,
                                extract_layers=[1], reduce_dim=16, decoder_num_attention_heads=2,
                                decoder_intermediate_size=16)
            ),
            words_and_image,
        ),
        "CLIP": (
            lambda: t.CLIPModel(t.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)),
            words_and_image,
        ),
        "SuperPoint": (
            lambda: t.SuperPointForKeypointDetection(
                t.SuperPointConfig(encoder_hidden_sizes=[16, 16, 32, 32], decoder_hidden_size=32,
                                   descriptor_decoder_dim=32)
            ),
            named(),
        ),
        "DAC": (
            lambda: t.DacModel(
                t.DacConfig(encoder_hidden_size=8, downsampling_ratios=[2, 4], decoder_hidden_size=32,
                            n_codebooks=2, codebook_size=16, codebook_dim=4)
            ),
            lambda: {"input_values": sound(1600).unsqueeze(1)},
        ),
        "HiFi-GAN": (
            lambda: t.SpeechT5HifiGan(
                t.SpeechT5HifiGanConfig(model_in_dim=20, upsample_initial_channel=32, upsample_rates=[4, 4],
                                        upsample_kernel_sizes=[8, 8], resblock_kernel_sizes=[3],
                                        resblock_dilation_sizes=[[1, 3]])
            ),
            lambda: {"spectrogram": spectrum().mT},
        ),
        "FastSpeech2": (
            lambda: t.FastSpeech2ConformerModel(
                t.FastSpeech2ConformerConfig(
                    hidden_size=32, vocab_size=20, num_mel_bins=16, encoder_num_attention_heads=2,
                    encoder_layers=1, encoder_linear_units=32, decoder_layers=1, decoder_num_attention_heads=2,
                    decoder_linear_units=32, speech_decoder_postnet_layers=2, speech_decoder_postnet_units=16,
                    duration_predictor_channels=16, energy_predictor_channels=16, pitch_predictor_channels=16,
                )
            ),
            lambda: {"input_ids": torch.randint(1, 20, (2, 8))},
        ),
        "VITS": (
            lambda: t.VitsModel(
                t.VitsConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                             ffn_dim=32, flow_size=16, spectrogram_bins=17, use_stochastic_duration_prediction=False,
                             upsample_initial_channel=32, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
                             resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], prior_encoder_num_flows=2,
                             posterior_encoder_num_wavenet_layers=2, duration_predictor_filter_channels=16)
            ),
            lambda: {"input_ids": torch.randint(1, 50, (2, 8))},
        ),
        "VideoMAE": (
            lambda: t.VideoMAEForVideoClassification(
                t.VideoMAEConfig(**{**vision, "patch_size": 16}, num_frames=4, num_labels=3)
            ),
            lambda: {"pixel_values": torch.rand(2, 4, 3, 64, 64)},
        ),
        "Swin2SR": (
            lambda: t.Swin2SRForImageSuperResolution(
                t.Swin2SRConfig(image_size=32, embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=8)
            ),
            lambda: {"pixel_values": image(32)},
        ),
    }  # fmt: skip


def diffusers() -> Rows:
    import diffusers as d

    def unet() -> nn.Module:
        return d.UNet2DModel(
            sample_size=32, block_out_channels=(32, 64), norm_num_groups=8, layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def conditional() -> nn.Module:
        return d.UNet2DConditionModel(
            sample_size=16, block_out_channels=(32, 64), norm_num_groups=8, layers_per_block=1,
            cross_attention_dim=16, attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip

    autoencoder = {"block_out_channels": (32, 64), "norm_num_groups": 8,
                   "down_block_types": ("DownEncoderBlock2D",) * 2,
                   "up_block_types": ("UpDecoderBlock2D",) * 2}  # fmt: skip
    step = torch.tensor([3, 7])
    return {
        "UNet2DModel": (unet, lambda: {"sample": image(32), "timestep": step}),
        "UNet2DModel, a tuple": (unet, lambda: (image(32), step)),
        "UNet2DConditionModel": (
            conditional,
            lambda: {"sample": image(16, 4), "timestep": step,
                     "encoder_hidden_states": torch.randn(2, 5, 16)},
        ),
        "AutoencoderKL": (lambda: d.AutoencoderKL(**autoencoder), partial(image, 32)),
        "VQModel": (lambda: d.VQModel(**autoencoder), partial(image, 32)),
        "AutoencoderTiny": (
            lambda: d.AutoencoderTiny(
                encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4
            ),
            partial(image, 32),
        ),
    }  # fmt: skip


def monai() -> Rows:
    from monai.networks import nets as n

    shape = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}
    io = {"in_channels": 1, "out_channels": 3}
    kernels = {
        "kernel_size": [3] * 3,
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [8, 16, 32],
    }
    flat = partial(image, 32, 1)
    return {
        "UNet": (lambda: n.UNet(spatial_dims=2, **io, **shape), flat),
        "UNet 3-D": (lambda: n.UNet(spatial_dims=3, **io, **shape), volume),
        "BasicUNet": (lambda: n.BasicUNet(2, 1, 3, features=(8, 8, 16, 16, 32, 8)), flat),
        "AttentionUnet": (lambda: n.AttentionUnet(2, 1, 3, (8, 16, 32), (2, 2)), flat),
        "DynUNet": (lambda: n.DynUNet(2, **io, **kernels), flat),
        "DynUNet, deep supervision": (
            lambda: n.DynUNet(2, **io, **kernels, deep_supervision=True, deep_supr_num=1), flat,
        ),
        "SegResNet": (lambda: n.SegResNet(2, 8, **io), flat),
        "SegResNet 3-D": (lambda: n.SegResNet(3, 8, **io), volume),
        "VNet": (lambda: n.VNet(2, **io), partial(image, 64, 1)),
        "DenseNet121": (lambda: n.DenseNet121(2, 1, 4, init_features=16, growth_rate=8), partial(image, 64, 1)),
        "HighResNet": (lambda: n.HighResNet(2, **io), flat),
        "AutoEncoder": (lambda: n.AutoEncoder(2, 1, 1, (8, 16), (2, 2)), flat),
        "VarAutoEncoder": (
            lambda: n.VarAutoEncoder(2, (1, 32, 32), 1, 8, (8, 16), (2, 2)), flat,
        ),
        "SegResNetDS": (lambda: n.SegResNetDS(2, 8, **io, dsdepth=2, blocks_down=(1, 1, 1)), flat),
        "SwinUNETR": (
            lambda: n.SwinUNETR(1, 3, feature_size=12, depths=(1,) * 4, spatial_dims=2,
                                num_heads=(1, 2, 2, 2), window_size=4),
            partial(image, 64, 1),
        ),
        "UNETR": (
            lambda: n.UNETR(1, 3, (32, 32), feature_size=8, hidden_size=32, mlp_dim=64, num_heads=2, spatial_dims=2), flat,
        ),
        "FlexibleUNet": (lambda: n.FlexibleUNet(3, 3, "efficientnet-b0", decoder_channels=(32, 16, 16, 8, 8)), image),
        "RegUNet": (lambda: n.RegUNet(2, 1, 8, 2), flat),
        "BasicUNetPlusPlus": (
            lambda: n.BasicUNetPlusPlus(2, 1, 3, features=(8, 8, 16, 16, 32, 8), deep_supervision=True), flat,
        ),
        "DiffusionModelUNet": (
            lambda: n.DiffusionModelUNet(2, 1, 1, num_res_blocks=1, channels=(16, 32), attention_levels=(False, True),
                                         norm_num_groups=8, num_head_channels=8),
            lambda: {"x": flat(), "timesteps": torch.tensor([3, 7])},
        ),
        "AutoencoderKL": (
            lambda: n.AutoencoderKL(2, 1, 1, num_res_blocks=1, channels=(16, 32), attention_levels=(False, False),
                                    norm_num_groups=8),
            flat,
        ),
        "VQVAE": (
            lambda: n.VQVAE(2, 1, 1, channels=(16, 32), num_res_layers=1, num_res_channels=(16, 32),
                            downsample_parameters=((2, 4, 1, 1),) * 2,
                            upsample_parameters=((2, 4, 1, 1, 0),) * 2, num_embeddings=8, embedding_dim=8),
            flat,
        ),
        "MultiScalePatchDiscriminator": (
            lambda: n.MultiScalePatchDiscriminator(num_d=2, num_layers_d=1, spatial_dims=2, channels=8, in_channels=1),
            partial(image, 64, 1),
        ),
        "SPADENet": (
            lambda: n.SPADENet(2, 1, 1, 3, (32, 32), [8, 16], 8, spade_intermediate_channels=16),
            lambda: {"seg": image(32, 3), "x": flat()},
        ),
        "Quicknat": (lambda: n.Quicknat(num_classes=3, num_channels=1, num_filters=16), flat),
        "MedNeXt": (
            lambda: n.MedNeXt(2, 8, 1, 3, kernel_size=3, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1)), flat,
        ),
    }  # fmt: skip


def ultralytics() -> Rows:
    from ultralytics.nn import tasks as t

    def quiet(kind: type, name: str) -> Callable[[], nn.Module]:
        return lambda: kind(name, verbose=False)

    return {
        "yolov8n": (quiet(t.DetectionModel, "yolov8n.yaml"), large),
        "yolo11n": (quiet(t.DetectionModel, "yolo11n.yaml"), large),
        "yolov5n": (quiet(t.DetectionModel, "yolov5n.yaml"), large),
        "yolov10n": (quiet(t.DetectionModel, "yolov10n.yaml"), large),
        "yolov8n-seg": (quiet(t.SegmentationModel, "yolov8n-seg.yaml"), large),
        "yolov8n-pose": (quiet(t.PoseModel, "yolov8n-pose.yaml"), large),
        "yolov8n-cls": (quiet(t.ClassificationModel, "yolov8n-cls.yaml"), image),
    }


def effdet() -> Rows:
    import effdet

    def net(bench: bool) -> nn.Module:
        config = effdet.get_efficientdet_config("tf_efficientdet_lite0")
        config.image_size = (128, 128)
        model = effdet.EfficientDet(config, pretrained_backbone=False)
        return effdet.DetBenchPredict(model) if bench else model

    return {
        "EfficientDet": (lambda: net(bench=False), large),
        "EfficientDet with boxes": (lambda: net(bench=True), large),
    }


def spandrel() -> Rows:
    from spandrel.architectures import DAT, PLKSR, SPAN
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    return {
        "RRDBNet": (lambda: RRDBNet(num_filters=16, num_blocks=1, scale=2), partial(image, 24)),
        "SRVGGNetCompact": (
            lambda: SRVGGNetCompact(num_feat=16, num_conv=3, upscale=2), partial(image, 24),
        ),
        "SPAN": (
            lambda: SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
            partial(image, 24),
        ),
        "DAT": (
            lambda: DAT.DAT(img_size=32, embed_dim=16, depth=[2], num_heads=[2], split_size=[4, 8], expansion_factor=2, upscale=2),
            partial(image, 32),
        ),
        "PLKSR": (lambda: PLKSR.PLKSR(dim=16, n_blocks=2, upscaling_factor=2, kernel_size=9), partial(image, 24)),
    }  # fmt: skip


def open_clip() -> Rows:
    from open_clip.model import CLIP
    from open_clip.modified_resnet import ModifiedResNet

    def clip() -> nn.Module:
        vision = {"layers": (1, 1, 1, 1), "width": 16, "image_size": 64}
        text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
        return CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)

    return {
        "ModifiedResNet": (lambda: ModifiedResNet((1, 1, 1, 1), 32, 2, 64, 16), image),
        "CLIP": (clip, lambda: {"image": image(), "text": torch.randint(50, (2, 8))}),
    }


def kornia() -> Rows:
    from kornia.feature import DISK, HardNet, HyNet, KeyNet, LoFTR, OriNet, SOSNet
    from kornia.models.dexined import DexiNed

    return {
        "HardNet": (partial(HardNet, pretrained=False), partial(image, 32, 1)),
        "SOSNet": (partial(SOSNet, pretrained=False), partial(image, 32, 1)),
        "KeyNet": (partial(KeyNet, pretrained=False), partial(image, 32, 1)),
        "HyNet": (partial(HyNet, pretrained=False), partial(image, 32, 1)),
        "OriNet": (partial(OriNet, pretrained=False), partial(image, 32, 1)),
        "DISK": (DISK, image),
        "LoFTR": (
            lambda: LoFTR(pretrained=None),
            lambda: {"image0": image(channels=1), "image1": image(channels=1)},
        ),
        "DexiNed": (lambda: DexiNed(pretrained=False), image),
    }


def facenet_pytorch() -> Rows:
    from facenet_pytorch import InceptionResnetV1
    from facenet_pytorch.models.mtcnn import PNet, RNet

    return {
        "InceptionResnetV1": (InceptionResnetV1, partial(image, 96)),
        "InceptionResnetV1, classes": (
            lambda: InceptionResnetV1(classify=True, num_classes=5), partial(image, 96),
        ),
        "PNet": (lambda: PNet(pretrained=False), partial(image, 32)),
        "RNet": (lambda: RNet(pretrained=False), partial(image, 24)),
    }  # fmt: skip


def efficientnet_pytorch() -> Rows:
    from efficientnet_pytorch import EfficientNet

    make = partial(EfficientNet.from_name, "efficientnet-b0", num_classes=10, image_size=64)
    return {"efficientnet-b0": (make, image)}


def pytorchvideo() -> Rows:
    from pytorchvideo.models import create_resnet, create_slowfast
    from pytorchvideo.models.x3d import create_x3d

    clip = partial(torch.rand, 2, 3, 4, 64, 64)
    pool = {"head_pool_kernel_size": (4, 2, 2)}
    return {
        "slow_r18": (
            lambda: create_resnet(model_depth=50, model_num_class=5, stem_dim_out=8, **pool), clip,
        ),
        "x3d": (lambda: create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=5), clip),
        "slowfast": (
            lambda: create_slowfast(
                model_num_class=5, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)),
            ),
            lambda: ([torch.rand(2, 3, 2, 64, 64), torch.rand(2, 3, 8, 64, 64)],),
        ),
    }  # fmt: skip


def speechbrain() -> Rows:
    from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
    from speechbrain.lobes.models.CRDNN import CRDNN
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.lobes.models.Xvector import Xvector

    frames = partial(torch.randn, 2, 40, 20)
    ecapa = {"channels": [32] * 4 + [96], "kernel_sizes": [5, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1],
             "attention_channels": 16, "lin_neurons": 16, "groups": [1] * 5}  # fmt: skip
    return {
        "ECAPA_TDNN": (lambda: ECAPA_TDNN(20, **ecapa), frames),
        "Xvector": (
            lambda: Xvector(tdnn_channels=[32, 32, 32, 32, 64], lin_neurons=16, in_channels=20), frames,
        ),
        "CRDNN": (
            lambda: CRDNN(
                input_shape=[None, None, 20], cnn_channels=[8, 16], rnn_layers=1, rnn_neurons=16,
                dnn_neurons=16,
            ),
            frames,
        ),
        "ConvolutionFrontEnd": (
            lambda: ConvolutionFrontEnd((2, 40, 20), out_channels=[16, 16], num_blocks=2, strides=[2, 2]), frames,
        ),
    }  # fmt: skip


def torchaudio() -> Rows:
    from torchaudio import models as m

    return {
        "ConvTasNet": (
            lambda: m.ConvTasNet(enc_num_feats=32, msk_num_feats=16, msk_num_hidden_feats=32,
                                 msk_num_layers=2, msk_num_stacks=1),
            lambda: sound(4000).unsqueeze(1),
        ),
        "DeepSpeech": (lambda: m.DeepSpeech(20, n_hidden=32, n_class=5), lambda: torch.randn(2, 1, 30, 20)),
        "Wav2Letter": (lambda: m.Wav2Letter(num_classes=5, input_type="mfcc", num_features=20), lambda: torch.randn(2, 20, 60)),
        "Conformer": (
            lambda: m.Conformer(16, 2, 32, 1, 7),
            lambda: {"input": torch.randn(2, 20, 16), "lengths": torch.tensor([20, 15])},
        ),
        "WaveRNN": (
            lambda: m.WaveRNN(upsample_scales=[2, 2], n_classes=8, hop_length=4, n_res_block=1, n_rnn=16,
                              n_fc=16, n_hidden=16, n_output=16, n_freq=16),
            lambda: (torch.randn(2, 1, (20 - 4) * 4), torch.randn(2, 1, 16, 20)),
        ),
    }  # fmt: skip


def demucs() -> Rows:
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    said = {"audio_channels": 1, "channels": 8, "segment": 1, "samplerate": 4096}
    music = partial(torch.randn, 2, 1, 4096)
    return {
        "Demucs": (lambda: Demucs(["a", "b"], depth=3, **said), music),
        "HDemucs": (lambda: HDemucs(["a", "b"], depth=4, nfft=256, **said), music),
        "HTDemucs": (
            lambda: HTDemucs(["a", "b"], depth=3, nfft=256, t_layers=1, t_heads=2, bottom_channels=32, **said), music,
        ),
    }  # fmt: skip


def encodec() -> Rows:
    from encodec.modules.seanet import SEANetDecoder, SEANetEncoder

    said = {"n_filters": 8, "dimension": 16, "ratios": [4, 2], "lstm": 1}
    both = lambda: nn.Sequential(SEANetEncoder(**said), SEANetDecoder(**said))  # noqa: E731
    return {"encoder and decoder": (both, partial(torch.randn, 2, 1, 800))}


def lpips() -> Rows:
    from lpips import LPIPS

    make = partial(LPIPS, pretrained=False, pnet_rand=True, net="squeeze", verbose=False)
    return {"squeeze": (make, lambda: (image(), image()))}


def denoising_diffusion_pytorch() -> Rows:
    from denoising_diffusion_pytorch import Unet

    return {
        "Unet": (lambda: Unet(dim=16, dim_mults=(1, 2)), lambda: (image(32), torch.tensor([3, 7])))
    }


def dynamic_network_architectures() -> Rows:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    def net(kind: type, axes: int, deep: bool = False) -> nn.Module:
        conv, norm = getattr(nn, f"Conv{axes}d"), getattr(nn, f"InstanceNorm{axes}d")
        return kind(
            1, 3, (8, 16, 32), conv, 3, (1, 2, 2), 1, 3, 1, conv_bias=True, norm_op=norm, nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=deep,
        )  # fmt: skip

    return {
        "nnU-Net": (lambda: net(PlainConvUNet, 2, deep=True), partial(image, 32, 1)),
        "nnU-Net ResEnc 3-D": (lambda: net(ResidualEncoderUNet, 3), partial(volume, 16)),
    }


def asteroid() -> Rows:
    from asteroid.models import DPRNNTasNet, SuDORMRFNet

    tasnet = partial(
        DPRNNTasNet, 2, n_filters=16, bn_chan=8, hid_size=8, chunk_size=20, n_repeats=1
    )
    sudo = partial(SuDORMRFNet, 2, bn_chan=16, num_blocks=1, upsampling_depth=2, n_filters=32)
    return {
        "DPRNNTasNet": (tasnet, partial(sound, 1600)),
        "SuDORMRFNet": (sudo, partial(sound, 1600)),
    }


def lightning() -> Rows:
    from lightning import LightningModule
    from torchvision.models import resnet18

    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"lr": 1e-3})
            self.net, self.loss = resnet18(num_classes=5), nn.CrossEntropyLoss()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    return {"LightningModule": (Classifier, lambda: (image(), torch.tensor([1, 4])))}


def deepinv() -> Rows:
    from deepinv.models import DnCNN, DRUNet, GSDRUNet, Restormer

    noisy = partial(image, 32)
    levels = {"nc": [8, 16, 24, 32], "nb": 1, "pretrained": None}
    small = {"num_blocks": [1] * 4, "num_refinement_blocks": 1, "heads": [1, 2, 2, 2]}
    return {
        "DnCNN": (lambda: DnCNN(depth=5, nf=16, pretrained=None), noisy),
        "DRUNet": (lambda: DRUNet(**levels), lambda: (noisy(), 0.1)),
        "GSDRUNet": (lambda: GSDRUNet(**levels), lambda: (noisy(), 0.1)),
        "Restormer": (lambda: Restormer(dim=16, **small, pretrained=None), lambda: (noisy(), 0.1)),
    }


def facexlib() -> Rows:
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    sizes = {"in_size": 64, "out_size": 64, "min_feat_size": 32, "ch_range": [16, 32]}
    return {
        "ParseNet": (lambda: ParseNet(**sizes, base_ch=16, parsing_ch=5, res_depth=2), image),
        "BiSeNet": (lambda: BiSeNet(5), image),
        "RetinaFace": (lambda: RetinaFace("resnet50", phase="test", device="cpu"), image),
    }


def vit_pytorch() -> Rows:
    from vit_pytorch.cct import CCT
    from vit_pytorch.crossformer import CrossFormer
    from vit_pytorch.cvt import CvT
    from vit_pytorch.max_vit import MaxViT
    from vit_pytorch.nest import NesT

    stages = {f"s{i}_{name}": n for i, heads in ((1, 1), (2, 1), (3, 2))
              for name, n in (("emb_dim", 16), ("depth", 1), ("heads", heads))}  # fmt: skip
    return {
        "CCT": (
            lambda: CCT(img_size=(64, 64), embedding_dim=32, n_conv_layers=2, num_layers=2, num_heads=2,
                        mlp_ratio=2, num_classes=5), image,
        ),
        "CvT": (lambda: CvT(num_classes=5, **stages), image),
        "CrossFormer": (
            lambda: CrossFormer(num_classes=5, dim=(32,) * 4, depth=(1,) * 4, global_window_size=(4, 2, 2, 1),
                                local_window_size=2), image,
        ),
        "MaxViT": (
            lambda: MaxViT(num_classes=5, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1), window_size=4), image,
        ),
        "NesT": (
            lambda: NesT(image_size=64, patch_size=4, dim=16, heads=2, num_hierarchies=3, block_repeats=(1,) * 3,
                         num_classes=5), image,
        ),
    }  # fmt: skip


def torchgeo() -> Rows:
    from torchgeo.models import FCN, FarSeg, FCSiamDiff

    two = partial(torch.rand, 2, 2, 3, 64, 64)
    return {
        "FCN": (lambda: FCN(4, 5, 16), partial(image, 64, 4)),
        "FCSiamDiff": (lambda: FCSiamDiff("resnet18", encoder_weights=None, classes=2), two),
        "FarSeg": (lambda: FarSeg("resnet18", 5, False), image),
    }


def braindecode() -> Rows:
    import braindecode.models as m

    signal = {"n_chans": 8, "n_outputs": 3, "n_times": 500, "sfreq": 100}
    return {
        name: (partial(getattr(m, name), **signal), partial(torch.randn, 2, 8, 500))
        for name in ("ATCNet", "Deep4Net", "EEGConformer", "EEGInceptionERP", "EEGNet")
    }


def neuralop() -> Rows:
    from neuralop.models import FNO

    make = partial(FNO, (8, 8), in_channels=1, out_channels=1, hidden_channels=16, n_layers=2)
    return {"FNO": (make, partial(image, 32, 1))}


def doctr() -> Rows:
    """They put out words and arrays of boxes."""
    from doctr.models.detection import db_mobilenet_v3_large
    from doctr.models.recognition import crnn_mobilenet_v3_small

    bare = {"pretrained": False, "pretrained_backbone": False}
    return {
        "DBNet": (partial(db_mobilenet_v3_large, **bare), image),
        "CRNN": (partial(crnn_mobilenet_v3_small, **bare), partial(torch.rand, 2, 3, 32, 128)),
    }


def vocos() -> Rows:
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone, VocosResNetBackbone

    mel = partial(torch.randn, 2, 20, 30)
    return {
        "Vocos": (
            lambda: nn.Sequential(VocosBackbone(20, 32, 64, 2), ISTFTHead(32, 64, 16)), mel,
        ),
        "VocosResNetBackbone": (lambda: VocosResNetBackbone(20, 32, 2), mel),
    }  # fmt: skip


def tsai() -> Rows:
    from tsai.models.FCN import FCN
    from tsai.models.PatchTST import PatchTST
    from tsai.models.TCN import TCN
    from tsai.models.XceptionTime import XceptionTime

    series = partial(torch.randn, 4, 3, 100)
    small = {"pred_dim": 10, "d_model": 16, "n_heads": 2, "d_ff": 32, "n_layers": 2}
    return {
        "TCN": (lambda: TCN(3, 5, layers=[12, 12]), series),
        "FCN": (lambda: FCN(3, 5, layers=[16, 24, 16]), series),
        "XceptionTime": (lambda: XceptionTime(3, 5, nf=8), series),
        "PatchTST": (lambda: PatchTST(3, 3, 100, **small), series),
    }


LIBRARIES: tuple[Callable[[], Rows], ...] = (
    torchvision, timm, segmentation_models_pytorch, transformers, diffusers, monai, ultralytics,
    effdet, spandrel, open_clip, kornia, facenet_pytorch, efficientnet_pytorch, pytorchvideo,
    speechbrain, torchaudio, demucs, encodec, lpips, denoising_diffusion_pytorch,
    dynamic_network_architectures, asteroid, lightning, deepinv, facexlib, vit_pytorch, torchgeo,
    braindecode, neuralop, doctr, vocos, tsai,
)  # fmt: skip
