import { classified } from "@stevedore/base";
import { imageToProto, newImageFromProto } from "@stevedore/convert/images";
import { optionalDateFromProto } from "@stevedore/convert/timestamps";
import type { EventExchange, ImageStore, NewImage } from "@stevedore/core";
import {
  ImageCreateSchema,
  ImageDeleteSchema,
  ImageUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/image_pb";
import type { Image, Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { pathsOf, publishEvent, requestContext, required } from "./request.ts";

function named(image: Image | undefined): NewImage {
  const wanted = newImageFromProto(required(image, "image"));
  if (wanted.name === "") throw classified("invalid-argument", "Image.Name required: invalid argument");
  return wanted;
}

/** The images service. */
export function imagesService(of: {
  readonly images: ImageStore;
  readonly events: EventExchange;
}): ServiceImpl<typeof Images> {
  const { images, events } = of;
  return {
    get: async ({ name }, call) => ({ image: imageToProto(await images.get(requestContext(call), name)) }),
    list: async ({ filters }, call) => ({
      images: (await images.list(requestContext(call), filters)).map(imageToProto),
    }),
    create: async ({ image, sourceDateEpoch }, call) => {
      const context = requestContext(call);
      const wanted = named(image);
      const epoch = optionalDateFromProto(sourceDateEpoch);
      const created = await images.create(context, epoch === undefined ? wanted : { ...wanted, createdAt: epoch });
      await publishEvent({ events, context, topic: "/images/create" }, ImageCreateSchema, {
        name: created.name,
        labels: { ...created.labels },
      });
      return { image: imageToProto(created) };
    },
    update: async ({ image, updateMask }, call) => {
      const context = requestContext(call);
      const updated = await images.update(context, named(image), pathsOf(updateMask));
      await publishEvent({ events, context, topic: "/images/update" }, ImageUpdateSchema, {
        name: updated.name,
        labels: { ...updated.labels },
      });
      return { image: imageToProto(updated) };
    },
    delete: async ({ name, sync, target }, call) => {
      const context = requestContext(call);
      await images.delete(context, name, {
        sync,
        ...(target === undefined || target.digest === "" ? {} : { target: target.digest }),
      });
      await publishEvent({ events, context, topic: "/images/delete" }, ImageDeleteSchema, { name });
      return {};
    },
  };
}
